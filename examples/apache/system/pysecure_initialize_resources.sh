# Makes the databases, where all of them are to be seen and nothing else is.
cd /zoobar && exec python3 create.py
