import { open, rm } from 'node:fs/promises'
import { isRecord } from '../../../shared/config/record.ts'
import type { AdminApi } from '../../admin-api.ts'
import { describeFault, StartError } from '../../start-errors.ts'
import type { ShownRobot } from './exposure.ts'

/** Where new secrets go, one at a time, so that none is lost when the next cannot be made. */
export interface SecretSink {
  put(robot: ShownRobot, secret: string): Promise<void>
  close(): Promise<void>
}

/** A new file that only its owner may read; nothing stays of it when nothing is put there. @throws StartError when there is one already */
export async function openSecretFile(path: string): Promise<SecretSink> {
  const file = await open(path, 'wx', 0o600).catch((cause: unknown) => {
    const isThere = (cause as NodeJS.ErrnoException).code === 'EEXIST'
    const what = isThere ? 'is there already: name a file that is not' : 'cannot be written'
    throw new StartError(`${path} ${what}`, { cause })
  })
  let isEmpty = true
  return {
    async put(robot, secret) {
      isEmpty = false
      await file.write(lineOf(robot, secret))
      await file.sync()
    },
    async close() {
      await file.close()
      if (isEmpty) await rm(path)
    },
  }
}

/** Standard output: a line each, for people or as JSON. */
export function printSecrets({ json }: { readonly json: boolean }): SecretSink {
  return {
    put: (robot, secret) => {
      process.stdout.write(
        json ? `${JSON.stringify({ ...robot, secret })}\n` : lineOf(robot, secret),
      )
      return Promise.resolve()
    },
    close: () => Promise.resolve(),
  }
}

/**
 * Gives each robot a new secret; one that cannot be given any is passed over.
 * @returns what went wrong, for people
 */
export async function rotateSecrets(
  api: AdminApi,
  { robots, sink }: { readonly robots: readonly ShownRobot[]; readonly sink: SecretSink },
): Promise<readonly string[]> {
  const failures: string[] = []
  for (const robot of robots) {
    try {
      await sink.put(robot, await rotate(api, robot))
    } catch (error) {
      failures.push(`${robot.name} (id ${robot.id}): ${describeFault(error)}`)
    }
  }
  return failures
}

async function rotate(api: AdminApi, { id }: ShownRobot): Promise<string> {
  const { json } = await api.call(`/robots/${id}`, {
    method: 'PATCH',
    body: { secret: '' },
    absent: 'it is not there any more',
  })
  const secret = isRecord(json) ? json['secret'] : undefined
  // It is printed as it is, into a file perhaps.
  if (typeof secret === 'string' && /^[!-~]+$/.test(secret)) return secret
  throw new StartError('the primary gave it a new secret and does not show it: give it another')
}

function lineOf({ name }: ShownRobot, secret: string): string {
  return `${name}\t${secret}\n`
}
