import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  certificateHosts,
  criRegistriesFor,
  dockerDaemonFor,
  hostsTomlFor,
  k3sRegistriesFor,
  placesOf,
  podmanRegistriesFor,
  type Mirroring,
} from '../../../shared/clients/mirroring.ts'

const at = (url: string) => ({ url, host: new URL(url).host })

const safe: Mirroring = {
  edges: [at('https://near:8081'), at('https://far:8081')],
  primary: at('https://registry.example'),
  registries: ['docker.io', 'quay.io'],
  ca: '/ca.crt',
  skipVerify: false,
}

const plain: Mirroring = {
  edges: [at('http://near:8081')],
  primary: at('http://registry.example:8080'),
  registries: [],
  ca: '/ca.crt',
  skipVerify: true,
}

const capabilities = ['pull', 'resolve']

test('containerd tries the edges, then where the registry is; our CA is not for the registries of others', () => {
  const hosts = [
    { url: 'https://near:8081', capabilities, ca: '/ca.crt' },
    { url: 'https://far:8081', capabilities, ca: '/ca.crt' },
  ]
  const server = 'https://registry.example'
  assert.deepEqual(hostsTomlFor(safe), [
    {
      registry: 'registry.example',
      hosts: { server, serverTls: { ca: '/ca.crt' }, hosts },
      keepsServer: false,
    },
    {
      registry: 'docker.io',
      hosts: { server: 'https://registry-1.docker.io', hosts },
      keepsServer: true,
    },
    { registry: 'quay.io', hosts: { server: 'https://quay.io', hosts }, keepsServer: true },
  ])
})

test('at plain http there is nothing to verify: no TLS option is written', () => {
  assert.deepEqual(hostsTomlFor(plain), [
    {
      registry: 'registry.example:8080',
      hosts: {
        server: 'http://registry.example:8080',
        serverTls: {},
        hosts: [{ url: 'http://near:8081', capabilities }],
      },
      keepsServer: false,
    },
  ])
  assert.deepEqual(certificateHosts(plain), [])
})

test('without a check of certificates each host says so', () => {
  const [{ hosts } = { hosts: undefined }] = hostsTomlFor({
    ...safe,
    ca: undefined,
    skipVerify: true,
  })
  assert.deepEqual(hosts?.serverTls, { skipVerify: true })
  assert.deepEqual(
    hosts.hosts?.map(({ skipVerify }) => skipVerify),
    [true, true],
  )
})

test('k3s and the old containerd are given endpoints, and how to speak to each host', () => {
  const logIn = { username: 'u', password: 'p' }
  const expected = {
    mirrors: [
      {
        registry: 'registry.example',
        endpoints: ['https://near:8081', 'https://far:8081', 'https://registry.example'],
      },
      { registry: 'docker.io', endpoints: ['https://near:8081', 'https://far:8081'] },
      { registry: 'quay.io', endpoints: ['https://near:8081', 'https://far:8081'] },
    ],
    configs: ['near:8081', 'far:8081', 'registry.example'].map((host) => ({
      host,
      logIn,
      ca: '/ca.crt',
    })),
  }
  assert.deepEqual(k3sRegistriesFor({ ...safe, logIn }), expected)
  assert.deepEqual(criRegistriesFor({ ...safe, logIn }), expected)
})

test('docker is given mirrors of docker.io, and whom it may not check', () => {
  const registryMirrors = ['https://near:8081', 'https://far:8081']
  assert.deepEqual(dockerDaemonFor(safe), { registryMirrors, insecureRegistries: [] })
  assert.deepEqual(dockerDaemonFor({ ...safe, skipVerify: true }), {
    registryMirrors,
    insecureRegistries: ['near:8081', 'far:8081', 'registry.example'],
  })
  assert.deepEqual(dockerDaemonFor(plain).insecureRegistries, ['registry.example:8080'])
})

test('podman asks an edge for other registries by a path', () => {
  const mirrors = (path: string) =>
    ['near:8081', 'far:8081'].map((host) => ({ location: `${host}${path}`, insecure: false }))
  assert.deepEqual(podmanRegistriesFor(safe), [
    { location: 'registry.example', insecure: false, mirrors: mirrors('') },
    { location: 'docker.io', mirrors: mirrors('/docker.io') },
    { location: 'quay.io', mirrors: mirrors('/quay.io') },
  ])
  assert.deepEqual(podmanRegistriesFor(plain), [
    {
      location: 'registry.example:8080',
      insecure: true,
      mirrors: [{ location: 'near:8081', insecure: true }],
    },
  ])
})

test('a host that is named twice is one', () => {
  const same = { ...safe, edges: [...safe.edges, at('https://registry.example')] }
  assert.deepEqual(
    placesOf(same).map(({ host }) => host),
    ['near:8081', 'far:8081', 'registry.example'],
  )
  assert.deepEqual(certificateHosts(same), ['near:8081', 'far:8081', 'registry.example'])
})
