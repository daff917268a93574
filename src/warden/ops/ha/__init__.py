"""A cluster from one file: its inventory, what follows for each host, the files for their disks, and whether they are
right. Nothing here touches a host: files are written to a folder, and whoever runs the hosts brings them there.
"""
