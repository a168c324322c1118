import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createRegistries, originsOf, repositoryAt } from '../../../shared/upstream/registries.ts'

const hub = {
  id: 'docker.io',
  names: ['index.docker.io', 'registry-1.docker.io'],
  url: new URL('https://registry-1.docker.io'),
  realmHosts: ['auth.docker.io'],
  libraryPrefix: true,
}
const quay = { id: 'quay', names: ['quay.io', 'Quay.IO:443'], url: new URL('https://quay.io') }

test('an upstream is found by its id and its names in any case, and nothing else is', () => {
  const registries = createRegistries([hub, quay])
  for (const name of ['docker.io', 'index.docker.io', 'Registry-1.Docker.io'])
    assert.equal(registries.resolve(name)?.id, 'docker.io')
  for (const name of ['quay', 'quay.io', 'QUAY.io:443'])
    assert.equal(registries.resolve(name)?.id, 'quay')
  for (const name of [
    '',
    'evil.example',
    '169.254.169.254',
    'quay.io:5000',
    '__proto__',
    'quay.io/x',
  ])
    assert.equal(registries.resolve(name), undefined, name)
})

test('a table that is ambiguous or holds what is no registry is refused', () => {
  const refused = [
    [quay, { ...quay, id: 'other' }],
    [hub, { ...quay, names: ['docker.io'] }],
    [{ ...quay, id: 'Up/../per' }],
    [{ ...quay, url: new URL('ftp://quay.io') }],
    [{ ...quay, url: new URL('https://user:pass@quay.io') }],
    [{ ...quay, url: new URL('https://quay.io/?x=1') }],
  ]
  for (const entries of refused) assert.throws(() => createRegistries(entries))
})

test("only Docker Hub's names of one component are completed", () => {
  const [first, other] = createRegistries([hub, quay]).entries
  assert.ok(first !== undefined && other !== undefined)
  assert.equal(repositoryAt(first, parseRepositoryName('nginx')), 'library/nginx')
  assert.equal(repositoryAt(first, parseRepositoryName('bitnami/nginx')), 'bitnami/nginx')
  assert.equal(repositoryAt(other, parseRepositoryName('nginx')), 'nginx')
})

test('what configuration names is its origin and its realm hosts', () => {
  const [entry] = createRegistries([hub]).entries
  assert.deepEqual(entry && originsOf(entry).map((url) => url.href), [
    'https://registry-1.docker.io/',
    'https://auth.docker.io/',
  ])
})
