"""What does an orbit do?"""
