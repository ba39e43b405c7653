"""The verifier: hosts the target model and has the last word."""
