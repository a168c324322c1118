import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, describe, test, type TestContext } from 'node:test'
import { readTlsFiles } from '../../../shared/http/tls-files.ts'
import { sanOf } from '../../../shared/trust/key-pair.ts'
import { createCa, issueServerCertificate, type PemPair } from '../../../shared/trust/pki.ts'
import { tempFolder } from '../../kit/temp.ts'
import { fetchOver, serveTls } from '../../shared/trust/tls-server.ts'
import { runProgram } from '../program.ts'

function certs(t: TestContext, cwd: string, line: string) {
  return runProgram(t, ['deploy/outport.ts', 'certs', ...line.split(' ')], { cwd })
}

async function modeOf(path: string): Promise<number> {
  return (await stat(path)).mode & 0o777
}

test('a CA and a certificate of it are made in files; keys are private', async (t) => {
  const folder = await tempFolder(t)
  const init = await certs(t, folder, 'init')
  assert.deepEqual([init.code, init.stdout], [0, 'certs/ca.crt\ncerts/ca.key\n'])
  const issue = await certs(t, folder, 'issue --host localhost --host *.b.example --ip ::1')
  assert.deepEqual([issue.code, issue.stdout], [0, 'certs/server.crt\ncerts/server.key\n'])
  const read = (name: string) => readFile(join(folder, 'certs', name), 'utf8')
  for (const key of ['ca.key', 'server.key']) {
    assert.equal(await modeOf(join(folder, 'certs', key)), 0o600)
  }
  const pair = await readTlsFiles({
    cert: join(folder, 'certs/server.crt'),
    key: join(folder, 'certs/server.key'),
  })
  assert.deepEqual(sanOf(new X509Certificate(pair.cert)), {
    dnsNames: ['localhost', '*.b.example'],
    ipAddresses: ['::1'],
  })
  const port = await serveTls(t, pair)
  assert.equal(await fetchOver({ host: 'localhost', port, ca: await read('ca.crt') }), 'served')
  assert.deepEqual((await readdir(join(folder, 'certs'))).sort(), [
    'ca.crt',
    'ca.key',
    'server.crt',
    'server.key',
  ])

  const again = await certs(t, folder, 'init')
  assert.equal(again.code, 1)
  assert.match(again.stderr, /^outport: certs\/ca\.key exists: .*\n$/)
})

test('a certificate without a CA says how to make one', async (t) => {
  const folder = await tempFolder(t)
  const { code, stderr } = await certs(t, folder, 'issue --host localhost --dir none')
  assert.equal(code, 1)
  assert.match(stderr, /^outport: none\/ca\.crt does not exist: .*certs init.*\n$/)
})

for (const [line, message] of [
  ['issue', /needs a name: give --host NAME or --ip ADDRESS/],
  ['issue --host 10.0.0.1', /--host: '10\.0\.0\.1' is an address/],
  ['issue --host a/b', /--host: 'a\/b' is not a host name/],
  ['issue --ip localhost', /--ip: 'localhost' is not an IPv4 or IPv6 address/],
  ['issue --host a --name ../a', /--name must be/],
  ['csr', /needs a name/],
  ['layout podman', /no layout for 'podman'; there are docker, containerd/],
  ['layout docker', /--registry HOST:PORT/],
  ['layout docker --registry a/../b', /--registry/],
  ['layout docker --registry ..', /--registry/],
  ['layout docker --registry a:0', /--registry must be HOST:PORT/],
  ['layout docker --registry *.a:443', /--registry/],
] as const) {
  test(`'certs ${line}' is refused in one line with exit code 2`, async (t) => {
    const folder = await tempFolder(t)
    const { code, stderr } = await certs(t, folder, line)
    assert.equal(code, 2)
    assert.match(stderr, /^outport: [^\n]*\n$/)
    assert.match(stderr, message)
    assert.deepEqual(await readdir(folder), [])
  })
}

test('a request and its key are made, and never over another key', async (t) => {
  const folder = await tempFolder(t)
  const { code, stdout } = await certs(t, folder, 'csr --host registry.example --name registry')
  assert.deepEqual([code, stdout], [0, 'registry.csr\nregistry.key\n'])
  assert.equal(await modeOf(join(folder, 'registry.key')), 0o600)
  const again = await certs(t, folder, 'csr --host registry.example --name registry')
  assert.equal(again.code, 1)
  assert.match(again.stderr, /^outport: registry\.key exists/)
})

describe('layouts', () => {
  let ca: PemPair
  let client: PemPair
  before(async () => {
    ca = await createCa('Test CA', new Date())
    const names = { dnsNames: ['client'], ipAddresses: [] }
    client = await issueServerCertificate(ca, { names, now: new Date() })
  })
  const prepare = async (t: TestContext) => {
    const folder = await tempFolder(t)
    await writeFile(join(folder, 'ca.pem'), ca.cert)
    await writeFile(join(folder, 'client.pem'), client.cert)
    await writeFile(join(folder, 'client.key'), client.key)
    return folder
  }

  test('docker finds the CA under host:port', async (t) => {
    const folder = await prepare(t)
    const line = 'layout docker --registry Registry.Example:8443 --ca ca.pem'
    const { code, stdout } = await certs(t, folder, line)
    assert.deepEqual([code, stdout], [0, 'certs.d/registry.example:8443/ca.crt\n'])
    const path = join(folder, 'certs.d/registry.example:8443/ca.crt')
    assert.equal(await readFile(path, 'utf8'), ca.cert)
  })

  test('containerd finds hosts.toml that names the CA and the client certificate beside it', async (t) => {
    const folder = await prepare(t)
    const { code } = await certs(
      t,
      folder,
      'layout containerd --registry [2001:DB8::1]:5000 --ca ca.pem --client-cert client.pem --client-key client.key --out out',
    )
    assert.equal(code, 0)
    const read = (name: string) => readFile(join(folder, 'out/[2001:db8::1]:5000', name), 'utf8')
    assert.equal(
      await read('hosts.toml'),
      'server = "https://[2001:db8::1]:5000"\nca = "ca.crt"\nclient = [["client.cert", "client.key"]]\n',
    )
    assert.equal(await read('ca.crt'), ca.cert)
    assert.equal(await read('client.cert'), client.cert)
    assert.equal(await modeOf(join(folder, 'out/[2001:db8::1]:5000/client.key')), 0o600)
  })

  test('files that are not what they should be are refused', async (t) => {
    const folder = await prepare(t)
    const layout = 'layout docker --registry a.example'
    for (const [options, code, message] of [
      ['--ca client.key', 1, /client\.key holds no certificate/],
      ['--ca none.pem', 1, /none\.pem does not exist/],
      ['--ca ca.pem --client-cert client.pem', 2, /go together/],
      ['--ca ca.pem --client-cert ca.pem --client-key client.key', 1, /not the key of ca\.pem/],
    ] as const) {
      const result = await certs(t, folder, `${layout} ${options}`)
      assert.equal(result.code, code)
      assert.match(result.stderr, message)
    }
  })
})
