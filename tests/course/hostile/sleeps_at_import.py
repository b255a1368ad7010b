"""Keeps the import waiting."""

import time

time.sleep(3600)
