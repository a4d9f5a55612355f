"""What a fleet would ask of the services beside it, on paper: measured unit costs times a fleet."""
