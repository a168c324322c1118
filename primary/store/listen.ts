import { setTimeout as sleep } from 'node:timers/promises'
import type pg from 'pg'
import type { Database } from './database.ts'
import { headChannel } from './events.ts'

const reconnectMs = 1000

/**
 * Calls back whenever a new head of the log is announced. A hint only: polling goes on meanwhile.
 * @returns how to stop
 */
export function listenForHeads(
  database: Pick<Database, 'connect'>,
  wake: () => void,
): Promise<() => Promise<void>> {
  return listenTo(database, { channel: headChannel, onNotification: wake })
}

interface Listener {
  readonly channel: string
  readonly onNotification: (payload: string) => void
}

/**
 * Calls back for what is told on a channel. A connection that breaks is made again without a word; what is told
 * meanwhile is not heard.
 * @returns how to stop
 */
export async function listenTo(
  database: Pick<Database, 'connect'>,
  listener: Listener,
): Promise<() => Promise<void>> {
  const stopped = new AbortController()
  let client = await listen(database, listener)

  const run = async (): Promise<void> => {
    while (!stopped.signal.aborted) {
      await client.lost
      await sleep(reconnectMs, undefined, { signal: stopped.signal }).catch(() => undefined)
      if (stopped.signal.aborted) return
      client = await listen(database, listener).catch(() => client)
    }
  }
  const running = run()
  return async () => {
    stopped.abort()
    await client.end()
    await running
    // The connection that was being made meanwhile.
    await client.end()
  }
}

interface Listening {
  /** Resolves when the connection is gone, wanted or not. */
  readonly lost: Promise<void>
  end(): Promise<void>
}

async function listen(
  database: Pick<Database, 'connect'>,
  { channel, onNotification }: Listener,
): Promise<Listening> {
  const client: pg.Client = await database.connect()
  const lost = new Promise<void>((resolve) => {
    client.on('error', () => resolve())
    client.on('end', () => resolve())
  })
  const end = () => client.end().catch(() => undefined)
  client.on('notification', ({ payload = '' }) => onNotification(payload))
  try {
    await client.query(`LISTEN ${channel}`)
  } catch (error) {
    await end()
    throw error
  }
  return { lost, end }
}
