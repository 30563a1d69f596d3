"""The terminal: arguments in, one pipeline call, printed result out."""
