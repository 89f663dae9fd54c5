-- How many there are decides how they are best compared.
analyze rebuilt_counts, rebuilt_users
