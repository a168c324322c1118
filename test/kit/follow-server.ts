import type { TestContext } from 'node:test'
import { openPrimaryLog, type PrimaryLog } from '../../edge/replication/primary-log.ts'
import { createTrouble } from '../../edge/replication/trouble.ts'
import type { EdgeReport, LeaseRequest } from '../../shared/replication/lease.ts'
import type { FeedServer } from './feed-server.ts'
import { createRecordingLog, type LogLine } from './http-server.ts'
import { tempFolder } from './temp.ts'

/** Of an edge that has done nothing yet. */
export const emptyReport: EdgeReport = {
  version: '0',
  clock: 0,
  cacheBytes: 0,
  cacheSizeBytes: 0,
  hits: 0,
  misses: 0,
  servedBytes: 0,
  url: '',
  lastError: '',
  failures: [],
}

/** Of an edge that is at the beginning of the log. @param letter what its nonce is made of */
export function createLeaseRequest(letter: string): LeaseRequest {
  return {
    nonce: letter.repeat(22),
    applied: { epoch: 1, seq: 0 },
    heldSeq: 0,
    waitingBytes: 0,
    report: emptyReport,
  }
}

/** An edge's record of the log that follows a server until the test ends, with what it logs. */
export async function followServer(
  t: TestContext,
  server: FeedServer,
): Promise<{ readonly log: PrimaryLog; readonly lines: readonly LogLine[] }> {
  const folder = await tempFolder(t)
  const { log, lines } = createRecordingLog()
  const trouble = createTrouble(Date.now)
  const primaryLog = await openPrimaryLog({
    folder,
    upstream: 'primary',
    unlistedMs: 0,
    trouble,
    log,
  })
  t.after(() => primaryLog.close())
  primaryLog.follow({
    edge: { id: 'one', secret: 'secret' },
    ask: server.ask,
    post: server.post,
    dial: { chooseProxy: () => undefined, connectTimeoutMs: 1000 },
    progress: () => ({
      heldSeq: 0,
      waitingBytes: 0,
      report: { ...emptyReport, ...trouble.last() },
    }),
    onIdentity: () => undefined,
    onRoster: () => undefined,
    onLink: () => undefined,
  })
  return { log: primaryLog, lines }
}
