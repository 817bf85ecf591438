from raygap.commands.terminal import speak_anywhere

speak_anywhere()  # before anything is said, the help of a command too
