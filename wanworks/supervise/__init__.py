"""`wanworks up`: start, supervise and stop the processes of one host. It must not depend on what they do."""
