from evclip_ray.cluster.connection import connect as connect
