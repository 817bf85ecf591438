"""raygap from Python: what the commands do, with their options' words as arguments, returning plain objects.

`import raygap` gives these functions and results by name (raygap.sweep, raygap.load_run, ...), and loads their files
when they are first asked for.
"""
