import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatNextSteps } from '../../deploy/next-steps.ts'

const started = {
  primary: 'http://127.0.0.1:8080',
  edge: 'http://127.0.0.1:8081',
  mirror: 'http://127.0.0.1:8082',
  metrics: { primary: 'http://127.0.0.1:9090', edge: 'http://127.0.0.1:9091' },
}

test('it has what each client is configured with', () => {
  const text = formatNextSteps(started, { kind: 'known' })
  for (const part of [
    'docker login -u admin 127.0.0.1:8080\n',
    'docker push 127.0.0.1:8080/library/IMAGE\n',
    `/etc/containerd/certs.d/127.0.0.1:8080/hosts.toml
  server = "http://127.0.0.1:8080"

  [host."http://127.0.0.1:8081"]
    capabilities = ["pull", "resolve"]
`,
    `/etc/containerd/certs.d/docker.io/hosts.toml
  server = "https://registry-1.docker.io"

  [host."http://127.0.0.1:8082"]
    capabilities = ["pull", "resolve"]
`,
    '{"registry-mirrors":["http://127.0.0.1:8082"]}\n',
    `  prefix = "docker.io"
  location = "docker.io"
  [[registry.mirror]]
  location = "127.0.0.1:8082"
  insecure = true
`,
    `  location = "127.0.0.1:8080"
  insecure = true
  [[registry.mirror]]
  location = "127.0.0.1:8081"
  insecure = true
`,
  ]) {
    assert.ok(text.includes(part), `${part}\nis not in\n${text}`)
  }
  assert.doesNotMatch(text, /insecure-registries/)
})

test('on a network in clear, docker is told what it needs', () => {
  const open = { ...started, primary: 'http://10.0.0.5:8080', edge: 'http://10.0.0.5:8081' }
  const text = formatNextSteps(open, { kind: 'known' })
  assert.ok(text.includes('{"insecure-registries":["10.0.0.5:8080","10.0.0.5:8081"]}'))
})

test('over TLS nothing is insecure', () => {
  const safe = {
    ...started,
    primary: 'https://registry.example',
    edge: 'https://edge.example:8081',
    mirror: 'https://edge.example:8082',
  }
  assert.doesNotMatch(formatNextSteps(safe, { kind: 'known' }), /insecure/)
})

test('the password is shown, or only where it is', () => {
  const shown = formatNextSteps(started, { kind: 'shown', password: 'Pass-1' })
  assert.match(shown, /password is Pass-1\n/)
  assert.match(formatNextSteps(started, { kind: 'file', path: '/d/p' }), /password is in \/d\/p\n/)
})
