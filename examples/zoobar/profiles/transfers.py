#!python
# Shows what went on between the visitor and its owner.
me, visitor = get_self(), get_visitor()
for transfer in get_xfers(visitor):
    if transfer["sender"] == me:
        print(f"I gave you {transfer['zoobars']}.")
    elif transfer["recipient"] == me:
        print(f"You gave me {transfer['zoobars']}.")
print(f"You have {get_user(visitor)['zoobars']} zoobars.")
