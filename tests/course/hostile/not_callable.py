"""Has the name, but no function behind it."""

attend = 3
