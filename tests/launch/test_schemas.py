"""Manifests against the schemas that JobSet and Kueue publish.

As `kubectl apply --validate=strict` has an API server check them, but for rules
in CEL (x-kubernetes-validations), which only a server evaluates.
"""

import copy
import json
import pathlib

import jsonschema
import pytest

from launch.gke import manifests
from launch.gke.slices import get_slice

SCHEMAS = pathlib.Path(__file__).parent / 'schemas'
# Of every object; definitions of resources leave it out.
METADATA = {
  'type': 'object',
  'required': ['name'],
  'properties': {
    'name': {'type': 'string', 'pattern': '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'},
    'namespace': {'type': 'string'},
    'labels': {'type': 'object', 'additionalProperties': {'type': 'string'}},
    'annotations': {
      'type': 'object',
      'additionalProperties': {'type': 'string'},
    },
  },
}


def _strict(schema):
  """A schema that refuses fields which a server would drop."""
  if isinstance(schema, list):
    return [_strict(item) for item in schema]
  if not isinstance(schema, dict):
    return schema
  strict = {name: _strict(value) for name, value in schema.items()}
  if schema.get('x-kubernetes-int-or-string'):
    strict['type'] = ['integer', 'string']
  if (
    isinstance(schema.get('properties'), dict)
    and schema.get('type') == 'object'
    and not schema.get('x-kubernetes-preserve-unknown-fields')
  ):
    strict['additionalProperties'] = False
  return strict


def _errors(manifest) -> list[str]:
  published = json.loads((SCHEMAS / f'{manifest["kind"]}.json').read_text())
  assert manifest['apiVersion'] == published['apiVersion']
  schema = copy.deepcopy(published['schema'])
  schema['properties']['metadata'] = METADATA
  validator = jsonschema.Draft202012Validator(_strict(schema))
  return [error.message for error in validator.iter_errors(manifest)]


def _manifests():
  for spot in (False, True):
    target = manifests.Target(
      tpu=get_slice('v5e-64'),
      image='image:1',
      service_account='trainer' if spot else '',
      spot=spot,
      priority='high' if spot else '',
    )
    yield manifests.job_set('study/run', ['python main.py'], target)
    yield from manifests.queues(target, num_slices=3)


def test_every_manifest_is_valid():
  found = list(_manifests())
  assert {m['kind'] for m in found} == {
    path.stem for path in SCHEMAS.glob('*.json')
  }
  assert [_errors(manifest) for manifest in found] == [[]] * len(found)


@pytest.mark.parametrize(
  ('kind', 'path', 'value', 'words'),
  [
    ('JobSet', 'metadata.label', {}, "'label' was unexpected"),
    ('JobSet', 'spec.failurePolicy.maxRestart', 3, "'maxRestart' was"),
    ('JobSet', 'spec.failurePolicy.maxRestarts', '3', "not of type 'integer'"),
    (
      'JobSet',
      'spec.failurePolicy.rules.0.action',
      'RestartForEver',
      'is not one of',
    ),
    (
      'JobSet',
      'spec.replicatedJobs.0.template.spec.template.spec.nodeSelectors',
      {},
      "'nodeSelectors' was unexpected",
    ),
    (
      'JobSet',
      'spec.replicatedJobs.0.template.spec.template.spec.containers.0.cmd',
      [],
      "'cmd' was unexpected",
    ),
    ('ResourceFlavor', 'spec.labels', {}, "'labels' was unexpected"),
    (
      'ClusterQueue',
      'spec.resourceGroups.0.flavors.0.resources.0.quota',
      3,
      "'quota' was unexpected",
    ),
    ('LocalQueue', 'spec.clusterqueue', 'tpus', "'clusterqueue' was unexpect"),
  ],
)
def test_a_wrong_field_is_refused(kind, path, value, words):
  manifest = next(m for m in _manifests() if m['kind'] == kind)
  *parents, name = path.split('.')
  place = manifest
  for parent in parents:
    place = place[int(parent) if parent.isdigit() else parent]
  place[name] = value
  [error] = _errors(manifest)
  assert words in error
