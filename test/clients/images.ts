import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { subfolder, testHosts, type Outport } from './outport.ts'
import { run, type Result, type RunOptions } from './process.ts'
import { toolPath } from './tools.ts'

/** What a program printed, once it succeeded. */
export function printed({ code, stdout, stderr }: Result): string {
  assert.equal(code, 0, stdout + stderr)
  return stdout
}

/**
 * Runs a client with a home that keeps its log-ins. Where Outport speaks TLS it resolves the test's names, which needs
 * root, and trusts Outport's CA unless told not to.
 */
export async function runClient(
  outport: Outport,
  [name, ...args]: readonly [string, ...string[]],
  { trusted = true, ...options }: RunOptions & { readonly trusted?: boolean } = {},
): Promise<Result> {
  const HOME = await subfolder(outport, `home-${name}`)
  const given = { ...options, env: { HOME, XDG_RUNTIME_DIR: HOME, ...options.env } }
  if (outport.scheme === 'http') return run(toolPath(name), args, given)
  const hosts = join(HOME, 'hosts')
  await writeFile(
    hosts,
    Object.entries(testHosts)
      .map(([host, address]) => `${address} ${host}\n`)
      .join(''),
  )
  const env = { ...given.env, ...(trusted && { SSL_CERT_FILE: outport.ca }) }
  const inView = [
    '-m',
    'sh',
    '-c',
    'mount --bind "$0" /etc/hosts && exec "$@"',
    hosts,
    toolPath(name),
    ...args,
  ]
  return run('unshare', inView, { ...given, env })
}

/** Logs crane in as admin, and pushes an image with one random layer. @returns its digest */
export async function pushRandomImage(
  outport: Outport,
  name: string,
  { layerBytes = 4 << 20 } = {},
): Promise<string> {
  const folder = await subfolder(outport, `image-${randomBytes(4).toString('hex')}`)
  await writeFile(join(folder, 'content'), randomBytes(layerBytes))
  const layer = join(folder, 'layer.tar')
  printed(await run('tar', ['-C', folder, '-cf', layer, 'content']))
  const crane = async (args: readonly string[], options: RunOptions = {}) =>
    printed(await runClient(outport, ['crane', ...args], options))
  const host = name.split('/')[0] ?? ''
  await crane(['auth', 'login', host, '-u', 'admin', '--password-stdin'], {
    input: outport.password,
  })
  const plain = outport.scheme === 'http' ? ['--insecure'] : []
  await crane(['append', ...plain, '-f', layer, '-t', name, '--platform', 'linux/amd64'])
  return (await crane(['digest', ...plain, name])).trim()
}

/** A name and its password. */
export interface Credentials {
  readonly username: string
  readonly password: string
}

/** Makes a project that only its members may read. */
export async function createPrivateProject(outport: Outport, name: string): Promise<void> {
  await postAsAdmin(outport, '/projects', { project_name: name, metadata: { public: 'false' } })
}

/** Makes a robot that pulls from the project, and may do nothing else. */
export async function createRobot(outport: Outport, project: string): Promise<Credentials> {
  const access = [{ resource: 'repository', action: 'pull' }]
  const permissions = [{ kind: 'project', namespace: project, access }]
  const robot = { name: 'puller', level: 'project', duration: -1, permissions }
  const answer = await postAsAdmin(outport, '/robots', robot)
  const { name, secret } = JSON.parse(answer) as { name: string; secret: string }
  return { username: name, password: secret }
}

/** @returns the answer's body */
async function postAsAdmin(outport: Outport, path: string, body: object): Promise<string> {
  const base = `${outport.scheme}://${outport.primary}`
  const args = [
    '-sS',
    '--fail',
    '-u',
    `admin:${outport.password}`,
    '-H',
    'Content-Type: application/json',
    '-d',
    JSON.stringify(body),
  ] as const
  const tls = outport.scheme === 'https' ? ['--cacert', outport.ca] : []
  return printed(await runClient(outport, ['curl', ...args, ...tls, `${base}/api/v2.0${path}`]))
}
