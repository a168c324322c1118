import { setTimeout as delay } from 'node:timers/promises'
import type { Logger } from '../../shared/observability/log.ts'
import {
  startEmbeddedPostgres,
  stopLeftPostgres,
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
} from './embedded-postgres.ts'

const retryMs = 1000

/** An embedded PostgreSQL that is started again whenever it ends unasked. */
export interface KeptPostgres {
  readonly address: EmbeddedPostgres['address']
  /** Ends it, also in the middle of a restart; nothing of it runs afterwards. */
  stop(deadlineMs: number): Promise<void>
}

/**
 * Starts it for the first time.
 * @throws what startEmbeddedPostgres throws
 */
export async function keepPostgres(
  options: EmbeddedPostgresOptions,
  log: Logger,
): Promise<KeptPostgres> {
  let server = await startEmbeddedPostgres(options)
  const stopped = new AbortController()
  const watch = async () => {
    for (;;) {
      await server.exited
      if (stopped.signal.aborted) return
      log.error('the embedded PostgreSQL ended unasked; it is started again')
      try {
        server = await startEmbeddedPostgres({ ...options, signal: stopped.signal })
      } catch (err) {
        if (stopped.signal.aborted) return
        log.error({ err }, 'the embedded PostgreSQL does not start; trying again')
        await delay(retryMs, undefined, { signal: stopped.signal }).catch(() => undefined)
      }
    }
  }
  const watching = watch()
  return {
    address: server.address,
    async stop(deadlineMs) {
      stopped.abort()
      await server.stop(deadlineMs)
      // What a restart was about to bring, and what a server that was killed left behind.
      await stopLeftPostgres(options.folder, deadlineMs)
      await watching
    },
  }
}
