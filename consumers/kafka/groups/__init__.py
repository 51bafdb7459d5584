"""Consumer groups: their commits and members seen from outside, and the collection that a group fills.

Workers and jobs exclude one another here: `job_membership` and `live_group`.
"""
