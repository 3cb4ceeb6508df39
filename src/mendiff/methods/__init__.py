"""The methods: GLAD, DiAD and RAN."""
