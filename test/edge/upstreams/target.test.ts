import assert from 'node:assert/strict'
import { test } from 'node:test'
import { chooseTarget } from '../../../edge/upstreams/target.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'
import { parseOciUrl } from '../../../shared/oci/paths.ts'

const registries = createRegistries([
  { id: 'primary', url: new URL('http://127.0.0.1:1'), kind: 'primary' },
  {
    id: 'docker.io',
    names: ['index.docker.io', 'registry-1.docker.io'],
    url: new URL('https://registry-1.docker.io'),
    libraryPrefix: true,
  },
])
const [primary, hub] = registries.entries
assert.ok(primary && hub)

const choose = (url: string, fallback = primary): string => {
  const target = parseOciUrl(url)
  assert.ok(target)
  const { upstream, path } = chooseTarget(target, { registries, fallback })
  return `${upstream.id} ${'repository' in path ? path.repository : path.kind}`
}

test('?ns= chooses by id or name, before a prefix and the listener', () => {
  assert.equal(choose('/v2/a/b/tags/list?ns=docker.io'), 'docker.io a/b')
  assert.equal(choose('/v2/a/b/tags/list?ns=index.docker.io'), 'docker.io a/b')
  assert.equal(choose('/v2/docker.io/b/tags/list?ns=primary', hub), 'primary docker.io/b')
})

test('an unlisted ns is a 404, whatever it looks like', () => {
  for (const ns of ['evil.example', '169.254.169.254', '', 'Docker.io%0a', 'x'.repeat(5000)]) {
    assert.throws(() => choose(`/v2/a/tags/list?ns=${ns}`), { code: 'NAME_UNKNOWN', status: 404 })
  }
})

test('a path prefix is an id, and nothing else; alone it is a repository', () => {
  assert.equal(choose('/v2/docker.io/library/nginx/tags/list'), 'docker.io library/nginx')
  assert.equal(
    choose('/v2/index.docker.io/library/nginx/tags/list'),
    'primary index.docker.io/library/nginx',
  )
  assert.equal(choose('/v2/docker.io/tags/list'), 'primary docker.io')
})

test("a one-component name gets the upstream's default namespace", () => {
  assert.equal(choose('/v2/nginx/tags/list', hub), 'docker.io library/nginx')
  assert.equal(choose('/v2/docker.io/nginx/tags/list'), 'docker.io library/nginx')
  assert.equal(choose('/v2/nginx/tags/list'), 'primary nginx')
})

test('what names no repository goes to the default', () => {
  assert.equal(choose('/v2/', hub), 'docker.io ping')
  assert.equal(choose('/v2/_catalog'), 'primary catalog')
})
