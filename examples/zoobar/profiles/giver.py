#!python
# Gives a zoobar to who has few, to each visitor once a minute.
import os, time

visitor = get_visitor()
last = os.stat(visitor).st_mtime if os.path.exists(visitor) else 0
if visitor == get_self():
    print("That would be mine.")
elif get_user(visitor)["zoobars"] >= 20:
    print("You have enough.")
elif time.time() - last < 60:
    print("I gave you one a moment ago.")
else:
    left = give()
    open(visitor, "w").close()
    print(f"A zoobar for you, {visitor}. I have {left} left.")
