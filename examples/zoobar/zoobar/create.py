"""Makes the databases, all three, empty: run once, where all of them are to be seen."""

import auth
import bank
import profiles

for module in (auth, bank, profiles):
    module.database.create()
