import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatRegistriesConf } from '../../../shared/clients/registries-conf.ts'

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
