"""What a method does to the weights beside plain updates: one module each, named after the method."""
