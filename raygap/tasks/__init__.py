"""What a command and its function in Python have in common: what is asked for is planned here, and done.

Errors name options as the command line has them; raygap.api says them in its own words. As in the commands, what takes
seconds to import is imported where it is used.
"""
