import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, readFile, readlink, stat, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { before, describe, test, type TestContext } from 'node:test'
import { parse } from 'yaml'
import { createCa } from '../../../shared/trust/pki.ts'
import { tempFolder } from '../../kit/temp.ts'
import { runProgram } from '../program.ts'

let ca = ''
before(async () => {
  ca = (await createCa('Test CA', new Date())).cert
})

/** A folder with a CA in it, the command, and the files. */
async function world(t: TestContext) {
  const folder = await tempFolder(t)
  await writeFile(join(folder, 'ca.pem'), ca)
  return {
    folder,
    hosts: (line: string) =>
      runProgram(t, ['deploy/outport.ts', 'hosts', ...line.split(' ')], { cwd: folder }),
    read: (name: string) => readFile(join(folder, name), 'utf8'),
    write: async (name: string, text: string) => {
      await mkdir(dirname(join(folder, name)), { recursive: true })
      await writeFile(join(folder, name), text)
    },
  }
}

const edges = '--edge https://near.example:8081 --edge https://far.example:8081'
const primary = '--primary https://registry.example:8443'

describe('containerd', () => {
  test('gets a hosts.toml for each registry; a second run changes nothing and says so', async (t) => {
    const { folder, hosts, read } = await world(t)
    const line = `containerd ${edges} ${primary} --registry docker.io --ca ca.pem --root certs.d`
    const first = await hosts(line)
    const [ours, hub] = ['registry.example:8443', 'docker.io'].map((name) =>
      join(folder, 'certs.d', name, 'hosts.toml'),
    )
    assert.deepEqual(
      [first.code, first.stderr, first.stdout],
      [
        0,
        '',
        `${ours}: written\n${hub}: written\ncontainerd reads it at the next pull, if its config_path names ${folder}/certs.d: nothing to reload\n`,
      ],
    )
    const tail = ['near', 'far']
      .map(
        (name) => `
[host."https://${name}.example:8081"]
  capabilities = ["pull", "resolve"]
  ca = "${folder}/ca.pem"
`,
      )
      .join('')
    assert.ok(
      (await read('certs.d/registry.example:8443/hosts.toml')).includes(
        `\nserver = "https://registry.example:8443"\nca = "${folder}/ca.pem"\n${tail}`,
      ),
    )
    assert.ok(
      (await read('certs.d/docker.io/hosts.toml')).includes(
        `\nserver = "https://registry-1.docker.io"\n${tail}`,
      ),
    )
    const { mtimeMs } = await stat(ours ?? '')
    const second = await hosts(line)
    assert.deepEqual(
      [second.code, second.stdout],
      [0, `${ours}: nothing to change\n${hub}: nothing to change\n`],
    )
    assert.equal((await stat(ours ?? '')).mtimeMs, mtimeMs)
    assert.deepEqual(await readdir(join(folder, 'certs.d/docker.io')), ['hosts.toml'])
  })

  test('--dry-run shows the difference, masks passwords, and writes nothing', async (t) => {
    const { folder, hosts, read, write } = await world(t)
    const existing =
      '[host."https://bob"]\n  [host."https://bob".header]\n    authorization = ["Basic x"]\n'
    await write('certs.d/docker.io/hosts.toml', existing)
    const line = `containerd --edge https://near --registry docker.io --registry quay.io --root certs.d --dry-run`
    const { code, stdout } = await hosts(line)
    assert.equal(code, 0)
    const path = join(folder, 'certs.d/docker.io/hosts.toml')
    assert.ok(stdout.startsWith(`--- ${path}\n+++ ${path}\n@@ -1,3 +1,`), stdout)
    assert.match(stdout, /^\+\[host\."https:\/\/near"\]$/m)
    assert.match(stdout, /^ {5}authorization = \[\*\*\*\]$/m)
    assert.match(stdout, /^--- \/dev\/null\n\+\+\+ .*quay\.io\/hosts\.toml$/m)
    assert.equal(await read('certs.d/docker.io/hosts.toml'), existing)
    assert.deepEqual(await readdir(join(folder, 'certs.d')), ['docker.io'])
  })

  test('the folder that containerd looks for first is the one that is written', async (t) => {
    const { folder, hosts, read } = await world(t)
    await mkdir(join(folder, 'certs.d/registry.example_8443_'), { recursive: true })
    await hosts(`containerd ${edges} ${primary} --root certs.d`)
    assert.match(await read('certs.d/registry.example_8443_/hosts.toml'), /near\.example/)
  })

  test('a file that cannot be read is an error in one line, and nothing is written', async (t) => {
    const { folder, hosts, read, write } = await world(t)
    for (const broken of ['server = \n', 'server = "a"\nserver = "b"\n']) {
      await write('certs.d/docker.io/hosts.toml', broken)
      const { code, stdout, stderr } = await hosts(
        `containerd ${edges} ${primary} --registry docker.io --root certs.d`,
      )
      assert.deepEqual([code, stdout], [1, ''])
      assert.match(
        stderr,
        /^outport: .*docker\.io\/hosts\.toml: line \d [^\n]*; nothing was written\n$/,
      )
      assert.equal(await read('certs.d/docker.io/hosts.toml'), broken)
    }
    await writeFile(join(folder, 'certs.d/docker.io/hosts.toml'), Buffer.from([0x23, 0xff]))
    const { stderr } = await hosts(`containerd ${edges} --registry docker.io --root certs.d`)
    assert.match(stderr, /not a text in UTF-8/)
    assert.deepEqual(await readdir(join(folder, 'certs.d')), ['docker.io'])
  })

  test('--skip-verify and --plain-http are written only when they are given', async (t) => {
    const { hosts, read } = await world(t)
    const line = 'containerd --edge https://near --primary https://p --root certs.d'
    await hosts(`${line} --skip-verify`)
    assert.equal((await read('certs.d/p/hosts.toml')).match(/skip_verify = true/g)?.length, 2)
    await hosts(line)
    assert.doesNotMatch(await read('certs.d/p/hosts.toml'), /skip_verify/)
    const plain = 'containerd --edge http://near --primary http://p:80 --root certs.d'
    assert.equal((await hosts(plain)).code, 2)
    assert.equal((await hosts(`${plain} --plain-http`)).code, 0)
    assert.match(await read('certs.d/p:80/hosts.toml'), /^server = "http:\/\/p:80"$/m)
  })

  test('--legacy writes config.toml, private when it holds a log-in, through a link', async (t) => {
    const { folder, hosts, read, write } = await world(t)
    await write('real.toml', 'version = 2\nroot = "/r"\n')
    await symlink('real.toml', join(folder, 'config.toml'))
    await write('password', 'Secret-1\n')
    const line = `containerd --legacy --file config.toml ${edges} ${primary} --ca ca.pem --username robot$a+b --password-file password`
    const shown = await hosts(`${line} --dry-run`)
    assert.match(shown.stdout, /^\+ {2}password = \*\*\*$/m)
    assert.doesNotMatch(shown.stdout, /Secret/)
    const { code, stdout } = await hosts(line)
    assert.equal(code, 0)
    assert.match(stdout, /systemctl restart containerd/)
    assert.equal(await readlink(join(folder, 'config.toml')), 'real.toml')
    assert.equal((await stat(join(folder, 'real.toml'))).mode & 0o777, 0o600)
    const text = await read('real.toml')
    assert.ok(text.startsWith('version = 2\nroot = "/r"\n\n# >>> '))
    const table = 'plugins."io.containerd.grpc.v1.cri".registry'
    for (const part of [
      `[${table}.mirrors."registry.example:8443"]\n  endpoint = ["https://near.example:8081", "https://far.example:8081", "https://registry.example:8443"]\n`,
      `[${table}.configs."registry.example:8443".tls]\n  ca_file = "${folder}/ca.pem"\n`,
      `[${table}.configs."near.example:8081".auth]\n  username = "robot$a+b"\n  password = "Secret-1"\n`,
    ]) {
      assert.ok(text.includes(part), `${part}\nis not in\n${text}`)
    }
    assert.match((await hosts(line)).stdout, /config\.toml: nothing to change\n$/)
  })
})

describe('docker', () => {
  const paths = '--file docker/daemon.json --certs docker/certs.d'

  test('gets mirrors of docker.io and the CA of each host', async (t) => {
    const { folder, hosts, read, write } = await world(t)
    await write('docker/daemon.json', '{\n  "debug": true\n}\n')
    const line = `docker ${edges} ${primary} --ca ca.pem ${paths}`
    const { code, stdout } = await hosts(line)
    assert.equal(code, 0)
    assert.match(stdout, /docker reads it by: systemctl reload docker\n$/)
    assert.equal(
      await read('docker/daemon.json'),
      `{
  "debug": true,
  "registry-mirrors": [
    "https://near.example:8081",
    "https://far.example:8081"
  ]
}
`,
    )
    const names = ['far.example:8081', 'near.example:8081', 'registry.example:8443']
    assert.deepEqual((await readdir(join(folder, 'docker/certs.d'))).sort(), names)
    for (const name of names) assert.equal(await read(`docker/certs.d/${name}/ca.crt`), ca)
    const again = await hosts(line)
    assert.equal(again.stdout.match(/: nothing to change\n/g)?.length, 4)
    assert.doesNotMatch(again.stdout, /written|systemctl/)
  })

  test('--reload tells the dockerd of the pid file, and no other program', async (t) => {
    const { folder, hosts, write } = await world(t)
    const dockerd = join(folder, 'dockerd')
    await symlink('/bin/sh', dockerd)
    const child = spawn(
      dockerd,
      ['-c', 'trap "echo told; exit 0" HUP; echo ready; while :; do sleep 0.05; done'],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
    t.after(() => child.kill('SIGKILL'))
    await once(child.stdout, 'data')
    await write('docker.pid', `${child.pid}\n`)
    const line = `docker --edge https://near ${paths} --reload --pid-file docker.pid`
    const heard = once(child.stdout, 'data')
    const { code, stdout } = await hosts(line)
    assert.equal(code, 0)
    assert.match(stdout, /docker was told to read it\n$/)
    assert.equal(String((await heard)[0]), 'told\n')

    // Nothing changed: nobody is told.
    await write('docker.pid', `${process.pid}\n`)
    assert.deepEqual((await hosts(line)).code, 0)
    const other = await hosts(line.replace('near', 'far'))
    assert.equal(other.code, 1)
    assert.match(
      other.stderr,
      /^outport: written, but docker was not told: \d+, .* is not dockerd's; .*\n$/,
    )
    await write('docker.pid', 'x')
    assert.match((await hosts(line)).stderr, /holds no pid/)
  })

  test('has no mirrors of other registries', async (t) => {
    const { folder, hosts } = await world(t)
    const { code, stderr } = await hosts(`docker ${edges} --registry quay.io ${paths}`)
    assert.equal(code, 2)
    assert.match(
      stderr,
      /^outport: docker has mirrors for docker\.io alone, not for quay\.io: .*\n$/,
    )
    assert.deepEqual(await readdir(folder), ['ca.pem'])
  })
})

test('podman gets a file of registries.conf.d, and the CA', async (t) => {
  const { hosts, read } = await world(t)
  const line = `podman ${edges} ${primary} --registry docker.io --ca ca.pem --file conf.d/outport.conf --certs certs.d`
  const { code, stdout } = await hosts(line)
  assert.equal(code, 0)
  assert.match(stdout, /podman, skopeo and buildah read it each time/)
  const text = await read('conf.d/outport.conf')
  const order = [...text.matchAll(/^location = "(.*)"$/gm)].map(([, location]) => location)
  assert.deepEqual(order, [
    'registry.example:8443',
    'near.example:8081',
    'far.example:8081',
    'docker.io',
    'near.example:8081/docker.io',
    'far.example:8081/docker.io',
  ])
  assert.doesNotMatch(text, /insecure/)
  assert.equal(await read('certs.d/far.example:8081/ca.crt'), ca)
  assert.equal((await hosts(line)).stdout.match(/: nothing to change\n/g)?.length, 4)
  const numbered = await hosts(`podman ${edges} --registry quay.example:5000`)
  assert.equal(numbered.code, 2)
})

test('k3s gets registries.yaml, private when it holds a log-in', async (t) => {
  const { folder, hosts, read, write } = await world(t)
  await write('k3s/registries.yaml', '# by hand\nmirrors:\n  quay.io:\n    endpoint: [https://q]\n')
  await write('password', 'Secret-1\n')
  const line = `k3s ${edges} ${primary} --ca ca.pem --file k3s/registries.yaml --username robot$a+b --password-file password`
  const { code, stdout } = await hosts(line)
  assert.equal(code, 0)
  assert.match(stdout, /systemctl restart k3s/)
  const text = await read('k3s/registries.yaml')
  assert.match(text, /^# by hand\n/)
  const config = {
    tls: { ca_file: join(folder, 'ca.pem') },
    auth: { username: 'robot$a+b', password: 'Secret-1' },
  }
  assert.deepEqual(parse(text), {
    mirrors: {
      'quay.io': { endpoint: ['https://q'] },
      'registry.example:8443': {
        endpoint: [
          ...['https://near.example:8081', 'https://far.example:8081'],
          'https://registry.example:8443',
        ],
      },
    },
    configs: {
      'near.example:8081': config,
      'far.example:8081': config,
      'registry.example:8443': config,
    },
  })
  assert.equal((await stat(join(folder, 'k3s/registries.yaml'))).mode & 0o777, 0o600)
  assert.match((await hosts(line)).stdout, /: nothing to change\n$/)
})

for (const [line, message] of [
  ['containerd', /hosts containerd needs an edge: --edge/],
  [`containerd ${edges}`, /needs to know whose images/],
  [`containerd ${edges} ${primary} --username a`, /go together/],
  [`containerd ${edges} ${primary} --file f`, /--file goes with --legacy/],
  [`containerd ${edges} ${primary} --legacy --root r`, /--root does not go with --legacy/],
  [`containerd ${edges} ${primary} --username a --password-file ca.pem`, /one line|no log-ins/],
  [`podman --edge http://a ${primary}`, /plain http/],
  [`podman ${edges} ${primary} --username a`, /has no option --username/],
  ['crio', /no command crio of outport hosts; the commands are containerd, docker, podman, k3s/],
] as const) {
  test(`'hosts ${line}' is refused in one line`, async (t) => {
    const { folder, hosts } = await world(t)
    const { code, stdout, stderr } = await hosts(line)
    assert.notEqual(code, 0)
    assert.equal(stdout, '')
    assert.match(stderr, /^outport: [^\n]*\n$/)
    assert.match(stderr, message)
    assert.deepEqual(await readdir(folder), ['ca.pem'])
  })
}

test('a CA that is none is refused before anything is written', async (t) => {
  const { hosts, write, folder } = await world(t)
  await write('no.pem', 'x')
  const line = `k3s ${edges} ${primary} --file k3s.yaml --ca`
  assert.match((await hosts(`${line} no.pem`)).stderr, /no\.pem holds no certificate/)
  assert.match((await hosts(`${line} none.pem`)).stderr, /none\.pem does not exist/)
  assert.deepEqual((await readdir(folder)).sort(), ['ca.pem', 'no.pem'])
})
