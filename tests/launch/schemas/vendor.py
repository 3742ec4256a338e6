"""Makes the schemas beside it: python tests/launch/schemas/vendor.py CRD...

Args are CustomResourceDefinitions as JobSet and Kueue publish them. Of each it
keeps one version's schema, without descriptions, as <kind>.json.
"""

import json
import pathlib
import sys

import yaml

HERE = pathlib.Path(__file__).parent
VERSIONS = {
  'JobSet': 'v1alpha2',
  'ResourceFlavor': 'v1beta2',
  'ClusterQueue': 'v1beta2',
  'LocalQueue': 'v1beta2',
}


def without_descriptions(schema):
  """A schema without its prose; a field of that name is no prose."""
  if isinstance(schema, list):
    return [without_descriptions(item) for item in schema]
  if not isinstance(schema, dict):
    return schema
  return {
    name: without_descriptions(value)
    for name, value in schema.items()
    if not (name == 'description' and isinstance(value, str))
  }


def main():
  for file in sys.argv[1:]:
    definition = yaml.safe_load(pathlib.Path(file).read_text())
    spec = definition['spec']
    kind = spec['names']['kind']
    [version] = [v for v in spec['versions'] if v['name'] == VERSIONS[kind]]
    kept = {
      'apiVersion': f'{spec["group"]}/{version["name"]}',
      'kind': kind,
      'schema': without_descriptions(version['schema']['openAPIV3Schema']),
    }
    text = json.dumps(kept, separators=(',', ':'), sort_keys=True) + '\n'
    (HERE / f'{kind}.json').write_text(text)


if __name__ == '__main__':
  main()
