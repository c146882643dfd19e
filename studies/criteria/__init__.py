"""Which criterion predicts what a cut costs?"""
