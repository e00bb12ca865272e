"""What does the loss look like?"""
