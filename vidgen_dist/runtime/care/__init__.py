"""What looks after an output, beside runs and after them: how it stands, whether it is whole, handing it on.

Knows runs by what they leave in their output; no Ray.
"""
