// First: its hook must run before the one that stops the database server.
import { atEnd } from './at-end.ts'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { primarySection, type PrimaryConfig } from '../../primary/config.ts'
import { startPrimary } from '../../primary/main.ts'
import type { Running } from '../../shared/observability/program.ts'
import type { Records } from '../../primary/store/database.ts'
import type { Disk } from '../../primary/store/disk.ts'
import { loadConfig } from '../../shared/config/load.ts'
import { createLogger } from '../../shared/observability/log.ts'
import { callApi } from './api.ts'
import { waitFor } from './clock.ts'
import { cheapPasswords } from './passwords.ts'
import { createTestDatabase } from './postgres.ts'
import {
  createRegistryClient,
  type ClientOptions,
  type Credentials,
  type RegistryClient,
} from './registry-client.ts'

export interface TestPrimaryOptions {
  /** Merged into the configuration's `primary` part. */
  readonly primary?: Readonly<Record<string, unknown>>
  /** Called with each line of the log. */
  readonly onLog?: (line: string) => void
  /** What it writes blobs by. */
  readonly disk?: Disk
}

/** A whole primary in this process, on a database and a folder of its own. It ends with its test file. */
export interface TestPrimary {
  readonly url: URL
  /** All its listeners, by name. */
  readonly urls: Readonly<Record<string, string>>
  readonly metricsUrl: URL
  readonly admin: Credentials
  /** A look into its records, beside it. */
  readonly records: Records
  readonly data: string
  readonly blobFolder: string
  readonly config: PrimaryConfig
  /** A client that ends with the primary; anonymous without credentials. */
  client(credentials?: Credentials, scheme?: ClientOptions['scheme']): RegistryClient
  createProject(name: string, options: { readonly isPublic: boolean }): Promise<void>
  /** Makes a person with a name of its own. */
  createUser(): Promise<Credentials>
  /** Harbor's role ids: 1 admin, 2 developer, 3 guest, 4 maintainer, 5 limited guest. */
  setRole(project: string, username: string, roleId: number): Promise<void>
  /** Makes a robot that pulls from the project. */
  createRobot(project: string, name: string): Promise<Credentials>
  /** Stops it, and starts it again on the same data and port. */
  restart(): Promise<void>
  /** Waits until sessions that are due have been removed. */
  sweepUploads(): Promise<void>
  stop(): Promise<void>
}

/** Starts a primary. Call it at a file's top level or in `before`; it is stopped when the file's tests are over. */
export async function startTestPrimary(options: TestPrimaryOptions = {}): Promise<TestPrimary> {
  const ends: (() => unknown)[] = []
  const database = await createTestDatabase({
    after: (end: () => unknown) => void ends.push(end),
  } as Parameters<typeof createTestDatabase>[0])
  const data = await mkdtemp(join(tmpdir(), 'outport-primary-'))
  const { socketFolder, user, password, database: name } = database.address
  const admin = { username: 'admin', password: 'Admin-12345' }
  let config = configOf(data, {
    listeners: [{ port: 0 }],
    internal: { port: 0 },
    metrics: { port: 0 },
    database: {
      url: `postgres://${user}:${password}@/${name}?host=${encodeURIComponent(socketFolder)}`,
    },
    admin_password: admin.password,
    uploads: { sweep: '50ms' },
    ...options.primary,
  })
  const log = createLogger({
    level: options.onLog === undefined ? 'error' : 'debug',
    write: options.onLog ?? ((line) => void process.stderr.write(line)),
  })
  const { disk } = options
  const start = () =>
    startPrimary(config, {
      log,
      processMetrics: false,
      passwordCost: cheapPasswords,
      ...(disk && { disk }),
    })
  const removeAll = async () => {
    for (const end of ends) await end()
    await rm(data, { recursive: true, force: true })
    await rm(config.primary.key_file, { force: true })
  }
  let running: Running = await start().catch(async (error: unknown) => {
    await removeAll()
    throw error
  })
  const url = new URL(running.urls['primary'] ?? '')
  config = atPort(config, Number(url.port))
  const clients: RegistryClient[] = []

  const client: TestPrimary['client'] = (credentials, scheme) => {
    const made = createRegistryClient({
      baseUrl: url,
      credentials,
      ...(scheme !== undefined && { scheme }),
    })
    clients.push(made)
    return made
  }
  const api = client(admin)
  const post = async (path: string, body: object): Promise<unknown> => {
    const answer = await callApi(api, 'POST', path, body)
    return answer.body.length === 0 ? undefined : answer.json()
  }

  let stopped: Promise<void> | undefined
  const stop = () =>
    (stopped ??= (async () => {
      for (const each of clients) each.close()
      await running.stop(2000)
      await removeAll()
    })())
  atEnd(stop)

  return {
    url,
    get urls() {
      return running.urls
    },
    get metricsUrl() {
      return new URL(running.metrics)
    },
    admin,
    records: database.records,
    data,
    blobFolder: join(data, 'blobs'),
    config,
    client,
    async createProject(project, { isPublic }) {
      await post('/projects', { project_name: project, metadata: { public: String(isPublic) } })
    },
    async createUser() {
      const username = `user-${randomBytes(4).toString('hex')}`
      const credentials = { username, password: 'User-12345' }
      await post('/users', { ...credentials, email: `${username}@example.com`, realname: username })
      return credentials
    },
    async setRole(project, username, roleId) {
      const member = { role_id: roleId, member_user: { username } }
      await post(`/projects/${project}/members`, member)
    },
    async createRobot(project, name) {
      const access = [{ resource: 'repository', action: 'pull' }]
      const permissions = [{ kind: 'project', namespace: project, access }]
      const robot = await post('/robots', { name, level: 'project', duration: -1, permissions })
      const { name: username, secret: password } = robot as { name: string; secret: string }
      return { username, password }
    },
    async restart() {
      await running.stop(2000)
      running = await start()
    },
    async sweepUploads() {
      const due = new Date(Date.now() - config.primary.uploads.max_age)
      await waitFor('abandoned uploads to be removed', async () => {
        const rows = await database.records
          .selectFrom('uploads')
          .select('id')
          .where('updated_at', '<', due)
          .execute()
        return rows.length === 0
      })
    },
    stop,
  }
}

function configOf(data: string, primary: Readonly<Record<string, unknown>>): PrimaryConfig {
  return loadConfig({ sections: [primarySection], env: {}, flags: { data, primary } })
}

/** A restarted primary is found where it was. */
function atPort(config: PrimaryConfig, port: number): PrimaryConfig {
  const [first, ...others] = config.primary.listeners
  if (first === undefined) return config
  return { ...config, primary: { ...config.primary, listeners: [{ ...first, port }, ...others] } }
}
