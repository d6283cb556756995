"""Imports the module that is run as the service."""

import functions

assert functions.login.rpc.name == "login"
