import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  formatRegistriesConf,
  mergeRegistriesConf,
} from '../../../shared/clients/registries-conf.ts'

test('each registry is followed by its mirrors, and plain http is allowed only where it is said', () => {
  const text = formatRegistriesConf([
    { location: 'docker.io', mirrors: [{ location: '127.0.0.1:8082', insecure: true }] },
    { location: 'registry.example', mirrors: [{ location: 'edge.example' }] },
  ])
  assert.equal(
    text,
    `[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "127.0.0.1:8082"
insecure = true

[[registry]]
prefix = "registry.example"
location = "registry.example"
[[registry.mirror]]
location = "edge.example"
`,
  )
})

describe('in a file of others', () => {
  const begin = '# >>> outport hosts: written anew by each run; what is added to these tables stays'
  const end = '# <<< outport hosts'
  const registries = [
    { location: 'docker.io', mirrors: [{ location: 'near/docker.io' }, { location: 'far' }] },
  ]
  const ours = `${begin}
[[registry]]
prefix = "docker.io"
location = "docker.io"
[[registry.mirror]]
location = "near/docker.io"
[[registry.mirror]]
location = "far"
${end}
`

  function mergeTwice(existing: string): string {
    const text = mergeRegistriesConf(existing, registries)
    assert.equal(mergeRegistriesConf(text, registries), text)
    return text
  }

  test('ours come behind theirs', () => {
    assert.equal(mergeTwice(''), ours)
    const theirs = `unqualified-search-registries = ["quay.io"]

[[registry]]
# no mirror
location = "quay.io"
blocked = true
`
    assert.equal(mergeTwice(theirs), `${theirs}\n${ours}`)
  })

  test('what they say of the same registry is taken over, but for its mirrors', () => {
    const theirs = `# the hub
[[registry]]
location = "docker.io"
insecure = true
blocked = false # really
[[registry.mirror]]
location = "old"

[[registry]]
location = "quay.io"
[[registry.mirror]]
location = "kept"
`
    assert.equal(
      mergeTwice(theirs),
      `[[registry]]
location = "quay.io"
[[registry.mirror]]
location = "kept"

${ours
  .replace('[[registry]]', '# the hub\n[[registry]]')
  .replace('location = "docker.io"\n', 'location = "docker.io"\nblocked = false # really\n')}`,
    )
  })

  test('what is written behind ours stays there, and registries that are not wanted any more go', () => {
    const both = mergeRegistriesConf('', [
      ...registries,
      { location: 'quay.io', mirrors: [{ location: 'near/quay.io' }] },
    ])
    const theirs = '\n[[registry]]\nlocation = "ghcr.io"\n'
    assert.equal(mergeTwice(`${both}${theirs}`), `${ours}${theirs}`)
  })
})
