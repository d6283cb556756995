#!python
# Counts who comes by, in a file that lasts.
import json, os

visits = json.load(open("visits.json")) if os.path.exists("visits.json") else {}
visitor = get_visitor()
visits[visitor] = visits.get(visitor, 0) + 1
with open("visits.json", "w") as file:
    json.dump(visits, file)
print(f"Welcome, {visitor}: this is your visit number {visits[visitor]}.")
print("So far:", ", ".join(f"{who} {times}" for who, times in sorted(visits.items())))
