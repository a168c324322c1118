import { OciError } from '../../shared/oci/errors.ts'

export interface UploadLimits {
  /** Requests that receive bytes at once, all accounts together. */
  readonly concurrent: number
  /** The same for one account, so that one cannot keep all others out. */
  readonly concurrentPerAccount: number
  /** Open sessions of one account. */
  readonly openPerAccount: number
}

/** Counts the requests that receive bytes. */
export function createUploadGate({ concurrent, concurrentPerAccount }: UploadLimits) {
  const running = new Map<string, number>()
  let total = 0
  return {
    /**
     * Runs a request that receives bytes.
     * @throws OciError TOOMANYREQUESTS with Retry-After when too many run
     */
    async run<Result>(account: string, receive: () => Promise<Result>): Promise<Result> {
      const own = running.get(account) ?? 0
      if (total >= concurrent) throw tooMany('the registry receives as many uploads as it may')
      if (own >= concurrentPerAccount) throw tooMany(`this account has ${own} uploads running`)
      total++
      running.set(account, own + 1)
      try {
        return await receive()
      } finally {
        total--
        const left = (running.get(account) ?? 1) - 1
        if (left === 0) running.delete(account)
        else running.set(account, left)
      }
    },
    running: () => total,
  }
}

/** The refusal of an upload for which there is no room now. */
export function tooMany(reason: string): OciError {
  return new OciError('TOOMANYREQUESTS', `${reason}: try again in a few seconds`, {
    headers: { 'Retry-After': '5' },
  })
}
