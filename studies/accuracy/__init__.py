"""How accurate is a network at equal measured latency, by who chose its widths?"""
