import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from '../../shared/observability/log.ts'
import type { Database } from '../store/database.ts'

/** Every kind of job, and what one of it is told. */
export interface JobKinds {
  /** Works out what a run of a replication rule brings. */
  readonly 'replication.run': { readonly executionId: number }
  /** Lists the pieces of large blobs that have no such list. */
  readonly 'pieces.list': Readonly<Record<string, never>>
}

export type JobKind = keyof JobKinds

/** Work that is done once, by whichever primary takes it, and again when it failed. */
export interface Jobs {
  /** @param key jobs of one key that wait are one job */
  send<Kind extends JobKind>(kind: Kind, told: JobKinds[Kind], key: string): Promise<void>
  /** Takes jobs of a kind, one at a time, until `stop`. A handler that throws gets its job again. */
  work<Kind extends JobKind>(
    kind: Kind,
    handle: (told: JobKinds[Kind]) => Promise<void>,
  ): Promise<void>
  /** Waits for the handlers that run. */
  stop(): Promise<void>
}

/** The schema of the database that the queue keeps to itself. */
const schema = 'pgboss'
const stopMs = 5000
const quietMs = 60_000

export interface JobsOptions {
  readonly database: Pick<Database, 'query'>
  readonly log: Logger
  /** How often is looked for jobs that another primary has sent; one's own begin at once. At least 0.5. */
  readonly pollSeconds?: number
}

/** A queue that is opened once nobody waits for anything else. */
export interface LaterJobs extends Jobs {
  /** Opens it, however long that takes; what is sent waits for it. */
  begin(): void
}

const retryMs = 5000

export function createLaterJobs(options: JobsOptions): LaterJobs {
  const stopping = new AbortController()
  const opened = Promise.withResolvers<Jobs>()
  let running: Promise<void> | undefined
  const open = async (): Promise<void> => {
    for (let tries = 0; !stopping.signal.aborted; tries++) {
      try {
        opened.resolve(await startJobs(options))
        return
      } catch (err) {
        if (tries === 0) options.log.error({ err }, 'the queue of jobs cannot be opened yet')
        await delay(retryMs, undefined, { signal: stopping.signal }).catch(() => undefined)
      }
    }
    opened.reject(new Error('the primary stops'))
  }
  // Nobody may be waiting for it.
  opened.promise.catch(() => undefined)
  return {
    begin() {
      running ??= open()
    },
    send: async (...job) => (await opened.promise).send(...job),
    work: async (...work) => (await opened.promise).work(...work),
    async stop() {
      stopping.abort()
      if (running === undefined) return
      await running
      await opened.promise.then((jobs) => jobs.stop()).catch(() => undefined)
    },
  }
}

/**
 * Opens the queue in the records' own database, over their connections. `main.ts` stops it before it closes them.
 * @throws what the driver throws
 */
export async function startJobs({ database, log, pollSeconds = 2 }: JobsOptions): Promise<Jobs> {
  // Its code takes a tenth of a second to load.
  const { PgBoss } = await import('pg-boss')
  const boss = new PgBoss({
    db: { executeSql: (text, values) => database.query(text, values) },
    schema,
    schedule: false,
    registerInstance: false,
    reindex: false,
    monitorVacuum: false,
  })
  let quietUntil = 0
  boss.on('error', (err) => {
    // Not at every poll of an outage.
    if (Date.now() < quietUntil) return
    quietUntil = Date.now() + quietMs
    log.error({ err }, 'the queue of jobs failed; it goes on')
  })
  await boss.start()
  const workers = new Map<JobKind, string>()
  return {
    async send(kind, told, key) {
      await boss.send(kind, told, { singletonKey: key })
      const worker = workers.get(kind)
      if (worker !== undefined) boss.notifyWorker(worker)
    },
    async work(kind, handle) {
      await boss.createQueue(kind, {
        // One that waits under a key is enough.
        policy: 'short',
        retryLimit: 5,
        retryDelay: 1,
        retryBackoff: true,
      })
      const worker = await boss.work<JobKinds[typeof kind]>(
        kind,
        { pollingIntervalSeconds: pollSeconds },
        async (jobs) => {
          for (const { data } of jobs) await handle(data)
        },
      )
      workers.set(kind, worker)
    },
    async stop() {
      quietUntil = Infinity
      await boss.stop({ graceful: true, timeout: stopMs, close: false })
    },
  }
}
