"""The whole station for as long as one likes, with everything around it going away and coming back: does anything grow?

python -m tests.soak --seconds 1800        (make soak, SOAK_SECONDS)
"""
