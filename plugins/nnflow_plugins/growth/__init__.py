"""How fast do neighbors part?"""
