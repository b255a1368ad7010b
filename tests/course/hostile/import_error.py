"""Needs a package that is not there."""

import not_a_package_of_this_world
