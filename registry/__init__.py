"""Bundles in registries: OCI artifacts as CNCF ModelPack has them, by the library of the extra `oci`."""
