"""Networks: by name or by the user's function, their first and last layers, weights from elsewhere, frozen parts."""
