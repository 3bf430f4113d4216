"""The key under which the same feedback, sent again, is kept once: one expression for who sends it and who takes it."""

import re

KEY = re.compile(r"[A-Za-z0-9._-]{8,64}")
KEY_WORDS = "8 to 64 letters, digits, dots, - or _"
