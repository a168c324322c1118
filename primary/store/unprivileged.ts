import { spawn } from 'node:child_process'
import { chown, stat } from 'node:fs/promises'
import { userInfo } from 'node:os'
import { isMissing } from '../../shared/files/open-files.ts'

/** How a program is run that refuses to run as root. */
export interface Unprivileged {
  /** What to put before the command; empty for an ordinary user. */
  readonly prefix: readonly string[]
  /** Gives a folder to the user that the command will be. */
  give(folder: string): Promise<void>
}

/** A user and group by number: names need not exist in a container. */
interface Identity {
  readonly uid: number
  readonly gid: number
}

const nobody: Identity = { uid: 65_534, gid: 65_534 }

const asOurselves: Unprivileged = { prefix: [], give: () => Promise.resolve() }

/** A user namespace in which we are called nobody: files stay ours, nothing is given up outside. */
const inNamespace: Unprivileged = {
  prefix: ['unshare', '-U', `--map-user=${nobody.uid}`, '--'],
  give: () => Promise.resolve(),
}

/**
 * Where namespaces are forbidden (many containers): somebody who may still pass through root's folders. PostgreSQL
 * asks access(2) about its own programs, which forgets capabilities unless that is turned off, too.
 */
function asUser({ uid, gid }: Identity, { accessAsWell }: { accessAsWell: boolean }): Unprivileged {
  return {
    prefix: [
      'setpriv',
      ...(accessAsWell ? ['--securebits=+no_setuid_fixup'] : []),
      `--reuid=${uid}`,
      `--regid=${gid}`,
      '--clear-groups',
      '--inh-caps=-all,+dac_override',
      '--ambient-caps=-all,+dac_override',
      '--',
    ],
    give: (folder) => chown(folder, uid, gid),
  }
}

/**
 * Finds ways to run PostgreSQL, which refuses to be root, the best first. A cluster that exists decides: who owns it
 * may use it.
 * @param cluster the folder of the cluster, which need not exist
 * @throws Error saying what to do when there is no way
 */
export async function listUnprivileged(
  cluster: string,
): Promise<readonly [Unprivileged, ...Unprivileged[]]> {
  const owner = await ownerOf(cluster)
  const ways: Unprivileged[] = []
  for (const candidate of candidatesFor(owner)) if (await works(candidate)) ways.push(candidate)
  const [first, ...others] = ways
  if (first !== undefined) return [first, ...others]
  throw new Error(
    'PostgreSQL does not run as root, and neither unshare nor setpriv can make it somebody else here: start Outport as an ordinary user, or set primary.database.url to a PostgreSQL',
  )
}

function candidatesFor(owner: Identity | undefined): readonly Unprivileged[] {
  if (process.getuid?.() !== 0) {
    // initdb wants a name for its user, which a container's made-up uid does not have.
    return owner !== undefined || hasName() ? [asOurselves] : [inNamespace, asOurselves]
  }
  if (owner?.uid === 0) return [inNamespace]
  const somebody = [true, false].map((accessAsWell) => asUser(owner ?? nobody, { accessAsWell }))
  return owner === undefined ? [inNamespace, ...somebody] : somebody
}

function hasName(): boolean {
  try {
    return userInfo().username !== ''
  } catch {
    return false
  }
}

async function ownerOf(folder: string): Promise<Identity | undefined> {
  try {
    return await stat(folder)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

function works({ prefix: [command, ...args] }: Unprivileged): Promise<boolean> {
  if (command === undefined) return Promise.resolve(true)
  return new Promise((resolve) => {
    const child = spawn(command, [...args, 'true'], { stdio: 'ignore' })
    child.on('error', () => resolve(false))
    child.on('exit', (code) => resolve(code === 0))
  })
}
