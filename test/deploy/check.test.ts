import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createCa, issueServerCertificate } from '../../shared/trust/pki.ts'
import { makeCertificate } from '../kit/certificates.ts'
import { tempFolder } from '../kit/temp.ts'
import { runProgram } from './program.ts'

const outport = 'deploy/outport.ts'

test('--check names each file that a start would miss or could not use, of the programs that would start', async (t) => {
  const folder = await tempFolder(t)
  const ca = await createCa('Test CA', new Date())
  const names = { dnsNames: ['registry.example'], ipAddresses: [] }
  const server = await issueServerCertificate(ca, { names, now: new Date() })
  const other = await issueServerCertificate(ca, { names, now: new Date() })
  await writeFile(join(folder, 's.crt'), server.cert)
  await writeFile(join(folder, 's.key'), server.key)
  await writeFile(join(folder, 'other.key'), other.key)
  const file = join(folder, 'outport.yaml')
  const check = async (command: string, config: object) => {
    // JSON is YAML.
    await writeFile(file, JSON.stringify({ data: 'data', ...config }))
    const { code, stderr } = await runProgram(t, [outport, command, '--config', file, '--check'])
    return {
      code,
      paths: stderr
        .trimEnd()
        .split('\n')
        .map((line) => line.split(': ')[0]),
    }
  }
  const absent = {
    primary: {
      listeners: [{ tls: { cert: 'no.crt', key: 'no.key' } }],
      ca_file: 'no-ca.crt',
      edges: [{ id: 'rack', credential_file: 'no-secret' }],
    },
  }
  const missing = [
    'primary.listeners.0.tls.cert',
    'primary.listeners.0.tls.key',
    'primary.ca_file',
    'primary.edges.0.credential_file',
  ]
  assert.deepEqual(await check('primary', absent), { code: 1, paths: missing })
  assert.deepEqual(await check('up', absent), { code: 1, paths: missing })
  // The primary's files are on another machine.
  assert.equal((await check('edge', absent)).code, 0)

  const tls = (key: string) => ({ primary: { listeners: [{ tls: { cert: 's.crt', key } }] } })
  assert.deepEqual(await check('primary', tls('other.key')), {
    code: 1,
    paths: ['primary.listeners.0.tls.key'],
  })
  assert.equal((await check('up', tls('s.key'))).code, 0)
})

test('up --check prints where its edge will find the primary', async (t) => {
  const data = await tempFolder(t)
  const { stdout } = await runProgram(t, [
    ...[outport, 'up', '--data', data, '--check', '--primary-port', '9999'],
  ] as [string, ...string[]])
  assert.match(stdout, /url: http:\/\/127\.0\.0\.1:9999/)
  assert.doesNotMatch(stdout, /8080/)
})

test("--check of an edge names what is wrong with an upstream's certificate and the environment's proxies, and prints no password", async (t) => {
  const folder = await tempFolder(t)
  const [cert, key] = [join(folder, 'c.crt'), join(folder, 'other.key')]
  await writeFile(cert, makeCertificate({ names: [] }).cert)
  await writeFile(key, makeCertificate({ names: [] }).key)
  const file = join(folder, 'outport.yaml')
  const upstreams = [{ id: 'quay.io', client_cert: { cert, key } }]
  const check = async (edge: object, env: Readonly<Record<string, string>>) => {
    await writeFile(file, JSON.stringify({ data: 'data', edge }))
    const args = [outport, 'edge', '--config', file, '--check'] as const
    const { stdout, stderr } = await runProgram(t, args, { env })
    assert.doesNotMatch(stdout + stderr, /PLANTED/)
    return { stdout, paths: stderr.split('\n').map((line) => line.split(': ')[0]) }
  }
  const wrong = await check({ upstreams }, { HTTPS_PROXY: 'socks5://me:PLANTED@proxy.example' })
  assert.deepEqual(wrong.paths, ['edge.upstreams.quay.io.client_cert.key', 'HTTPS_PROXY', ''])
  const right = await check({}, { HTTPS_PROXY: 'http://me:PLANTED@proxy.example', NO_PROXY: 'a.b' })
  assert.match(right.stdout, /proxy: \(set\)\n +no_proxy:\n +- a\.b/)
})
