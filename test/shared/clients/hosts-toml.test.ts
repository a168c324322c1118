import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatHostsToml, hostsTomlPath } from '../../../shared/clients/hosts-toml.ts'

test('mirrors come first, with what they may be asked, and the server last', () => {
  const text = formatHostsToml({
    server: 'https://registry.example',
    hosts: [
      { url: 'https://edge.example:8081', capabilities: ['pull', 'resolve'], ca: 'edge.crt' },
      { url: 'http://127.0.0.1:8082' },
    ],
  })
  assert.equal(
    text,
    `server = "https://registry.example"

[host."https://edge.example:8081"]
  capabilities = ["pull", "resolve"]
  ca = "edge.crt"

[host."http://127.0.0.1:8082"]
`,
  )
})

test("the server's own CA and client certificate stand at the top", () => {
  const text = formatHostsToml({
    server: 'https://registry.example',
    serverTls: { ca: 'ca.crt', client: { cert: 'client.cert', key: 'client.key' } },
  })
  assert.equal(
    text,
    `server = "https://registry.example"
ca = "ca.crt"
client = [["client.cert", "client.key"]]
`,
  )
})

test('no value can leave its string', () => {
  const text = formatHostsToml({
    server: 'https://a"\nskip_verify = true',
    hosts: [{ url: 'https://b"]\nskip_verify = true' }],
  })
  assert.doesNotMatch(text, /^skip_verify/m)
})

test('the folder is the registry as clients type it', () => {
  assert.equal(
    hostsTomlPath('registry.example:5000'),
    '/etc/containerd/certs.d/registry.example:5000/hosts.toml',
  )
})
