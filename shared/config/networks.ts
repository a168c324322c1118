import { BlockList, isIP } from 'node:net'
import type { Report } from './parse.ts'

/** Every element must be an IP address or a network. */
export function checkNetworks(networks: readonly string[], at: string, report: Report): void {
  networks.forEach((network, index) => {
    try {
      addNetwork(new BlockList(), network)
    } catch {
      report(
        `${at}.${index}`,
        `must be an IP address or a network like 10.0.0.0/8, not '${network}'`,
      )
    }
  })
}

/**
 * Adds an address or network to a list.
 * @throws TypeError when it is neither
 */
export function addNetwork(blockList: BlockList, network: string): void {
  const [address = '', bits, ...rest] = network.split('/')
  const family = isIP(address)
  const isBits =
    bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128))
  if (family === 0 || !isBits || rest.length > 0) throw new TypeError(`not a network: ${network}`)
  const type = family === 4 ? 'ipv4' : 'ipv6'
  if (bits === undefined) blockList.addAddress(address, type)
  else blockList.addSubnet(address, Number(bits), type)
}
