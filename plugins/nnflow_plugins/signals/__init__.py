"""What does a series tell?"""
