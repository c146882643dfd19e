"""How accurate is ResNet-56 at equal measured latency, by who chose its widths?"""
